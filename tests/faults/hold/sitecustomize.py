"""A process that stands still at a chosen moment, so that a drill waits for an event and never for a time.

Python imports this module in every process whose PYTHONPATH has this folder. HOLD_AT is a pattern, HOLD_TOKEN a file. The
first process whose command line fits the pattern, or that puts a file or folder into a place that fits it, takes the
token away and stops itself (SIGSTOP). Whoever waits for that sends SIGCONT.
"""

import fnmatch
import os
import signal
import sys


def hold_at(pattern: str, token: str) -> None:
    """Have this process, and those that it forks, stop now or after the first `os.replace` that fits the pattern."""
    replace = os.replace

    def hold_if(text: str) -> None:
        if fnmatch.fnmatch(text, pattern):
            try:
                os.unlink(token)
            except FileNotFoundError:
                return
            os.kill(os.getpid(), signal.SIGSTOP)

    def replace_and_hold(source, target, **how) -> None:
        replace(source, target, **how)
        hold_if(os.path.abspath(target))

    os.replace = replace_and_hold
    hold_if(" ".join(sys.orig_argv))


if "HOLD_AT" in os.environ:
    hold_at(os.environ["HOLD_AT"], os.environ["HOLD_TOKEN"])
