"""What could keep llmsup from working, looked for before or beside a running daemon. Changes nothing."""
