"""What each cause of death means and what to do about it, for somebody woken at night. Pure.

Complete: a test goes through all causes that can be given. A cause that is not here (an older daemon's
file) still gets an answer.
"""

from dataclasses import dataclass

from supervisor.proc.causes import CRASHES


@dataclass(frozen=True, slots=True)
class Remedy:
    """``meaning``: what happened, one sentence; ``todo``: what to do, "" for nothing."""

    meaning: str
    todo: str = ""


_LOGS = "Read what it said: llmsup logs {model}."
_MODEL = "Put a good file at models.{model}.path (llmsup notices and starts it), or correct the path and restart llmsup."
_BINARY = "Check llama_server.binary, or build one: llmsup build (llmsup notices and starts it)."
_CRASH = (
    "One crash needs nothing. If it repeats: a newer build (llmsup build), fewer gpu_layers, a smaller "
    "context_size; report it to llama.cpp with the lines below."
)

# With requests inside, what to do about the machine or the model is not the first thought: one of them may have done it.
_INSIDE = (
    "Nothing at first: a request that was inside may have done it. Each is asked again alone; the one that does it "
    "again is refused (422), and who sends such is refused for an hour (403; llmsup status lists them). If it goes on "
    "all the same: {otherwise}"
)

REMEDIES: dict[str, Remedy] = {
    # Ended by llmsup or by wish
    "stopped": Remedy("It was stopped, as wished."),
    "restarted": Remedy("It was restarted, as wished."),
    "hung": Remedy(
        "It took requests and made no progress with them, and test requests failed too; llmsup ended it.",
        "Look at the lines below and at the GPU's driver (dmesg). If it repeats: fewer gpu_layers, a newer build.",
    ),
    "stalled": Remedy(
        "It stood still: no output, no I/O, no change of memory, no processor time; llmsup ended it.",
        "While loading: is the disk or file server with the model slow? Raise models.{model}.startup_stall_s if it is.",
    ),
    "unreachable": Remedy(
        "Its process lived but refused connections; llmsup ended it.",
        f"{_LOGS} Is something else closing its port, or are its threads exhausted?",
    ),
    "recycled": Remedy(
        "llama-servers together took more than memory.limit_mb and this one had grown; it was replaced when it was idle.",
        "If it repeats: raise memory.limit_mb, or lower models.{model}.context_size or parallel.",
    ),
    # From outside
    "killed": Remedy(
        "It was ended by SIGKILL from outside: somebody's kill -9, a container's limit, or a kernel that does "
        "not tell us why.",
        "Nobody did that? Look for the out-of-memory killer: journalctl -k | grep -i oom (or dmesg).",
    ),
    "signalled": Remedy("It was ended by a signal from outside.", "Find out who sends it; llmsup did not."),
    "out_of_memory": Remedy(
        "There was not enough memory for it.",
        "Lower models.{model}.context_size, parallel or gpu_layers, take a smaller quantisation, or give the "
        "machine or container more memory; then llmsup stop, llmsup start.",
    ),
    # Its own crashes
    "segfault": Remedy("llama-server crashed (segmentation fault).", _CRASH),
    "arithmetic_error": Remedy("llama-server crashed (an arithmetic error, as a division by zero).", _CRASH),
    "aborted": Remedy("llama-server aborted itself: something it takes for granted was not so.", _CRASH),
    "bus_error": Remedy(
        "llama-server crashed on memory that was taken from under it (bus error).",
        "Usually the model file was cut short or its disk failed while it was in use. Write the file beside and rename it; "
        "check the disk (dmesg).",
    ),
    "illegal_instruction": Remedy(
        "The binary has instructions that this processor does not know.",
        "Build it on this machine: llmsup build.",
    ),
    "exited": Remedy("llama-server ended by itself without saying a reason llmsup knows.", _LOGS),
    # It could not start
    "port_in_use": Remedy(
        "Somebody else had taken its port; llmsup goes on with the next one.",
        "Nothing, unless it repeats: then set models.{model}.port to 0.",
    ),
    "bad_flag": Remedy(
        "llama-server does not accept one of its options.",
        "Correct models.{model}.args (or env), restart llmsup; llama-server --help lists the options.",
    ),
    "model_missing": Remedy("The model file does not exist.", _MODEL),
    "model_unreadable": Remedy(
        "The model file cannot be read.", f"Check its permissions and its disk. {_MODEL}"
    ),
    "model_corrupt": Remedy(
        "The model file is damaged or no GGUF file: usually a download that broke off.",
        f"Fetch it again. {_MODEL}",
    ),
    "model_unsupported": Remedy(
        "This llama-server does not know this kind of model.",
        "Build a newer llama-server, or take another conversion of the model.",
    ),
    "does_not_fit": Remedy(
        "It needs more memory than memory.limit_mb allows or the machine has, so it was not started.",
        "Take the context_size named below for models.{model}, a smaller quantisation, or raise memory.limit_mb; restart llmsup.",
    ),
    "load_failed": Remedy(
        "llama-server could not load the model.", f"{_LOGS} The reason is a few lines above the end."
    ),
    "spawn_failed": Remedy(
        "The machine could not start a process just now: no memory, processes or descriptors left.",
        "It is tried again every second. See what uses them up: ulimit -a, systemctl status llmsup, free -m.",
    ),
    "not_executable": Remedy("The llama-server binary cannot be executed.", _BINARY),
    "cannot_start": Remedy(
        "There is nothing to start: the binary or the configuration is not as it must be.", _BINARY
    ),
    "internal_error": Remedy(
        "An error of llmsup's own ended it; a defect.",
        "Please report it with llmsup's log: llmsup logs --daemon.",
    ),
}
_UNKNOWN = Remedy("It ended for a reason this version of llmsup has no words for.", _LOGS)


def remedy(cause: str, model: str, *, inside: int = 0) -> Remedy:
    """For that model; names in the text are those of the configuration. ``inside``: so many requests were at it."""
    found = REMEDIES.get(cause, _UNKNOWN)
    todo = found.todo
    if inside and cause in CRASHES:
        todo = _INSIDE.replace("{otherwise}", todo[:1].lower() + todo[1:])
    return Remedy(found.meaning, todo.replace("{model}", model))
