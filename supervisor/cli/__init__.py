"""The `llmsup` command: one verb a file, imported only when it is used."""
