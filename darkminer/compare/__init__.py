"""Other methods of erasing, written anew from their papers, to be held beside this pack's own."""
