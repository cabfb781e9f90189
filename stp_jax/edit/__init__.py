"""The editor: camera path and clock of a new video are directed together in a browser (docs/editor.md)."""
