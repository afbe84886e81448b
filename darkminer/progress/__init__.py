"""How far a run is: what it will do, where it stands, and the words for both."""
