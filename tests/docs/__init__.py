"""The pages: each of their snippets runs here."""
