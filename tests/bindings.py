"""The ways to have calls done; light, as drivers in processes of their own import it."""

from slurmfutures import LoginExecutor, PilotsExecutor, SlurmExecutor

LOGIN = "login"
PILOTS = "pilots"


def bound(root: SlurmExecutor, binding: str) -> SlurmExecutor | LoginExecutor | PilotsExecutor:
    """Return the executor, or its view that is meant; pilots are as many as it has jobs at once."""
    if binding == LOGIN:
        return root.login
    return root.pilots() if binding.startswith(PILOTS) else root
