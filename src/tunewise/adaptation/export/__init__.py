"""An adaptation for use elsewhere: one file a format, discovered in this folder."""
