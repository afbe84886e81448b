"""The report card of a red team: what was asked, what came of it, what it does not say."""
