"""`llmsup diagnose`: another name of `doctor`."""

from supervisor.cli.doctor import command

__all__ = ["command"]
