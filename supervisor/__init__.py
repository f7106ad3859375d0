"""llmsup keeps llama-server answering: the daemon, its proxy and its command."""

__version__ = "0.1.0"
