"""Turn what the libraries raise while loading a model into one sentence that says what to do."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError

from headspec.errors import ModelError
from headspec.load.names import ModelName


@contextmanager
def explained(source: ModelName) -> Iterator[None]:
    """Turn what the libraries raise while loading into an error that says what to do."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch_dtype.*deprecated.*")
            yield
    except ModelError:
        raise
    except (SafetensorError, UnpicklingError) as error:
        raise ModelError(
            f"the weights in {source.location} are damaged or cut off: {_first_line(error)} Copy them anew."
        ) from error
    except OSError as error:
        where = f"{source.location}" + (f" at revision {source.revision}" if source.revision else "")
        raise ModelError(
            f"cannot load {where}: {_first_line(error)} Is the name right, and the network or the hub's cache at hand?"
        ) from error
    except StrictDataclassError as error:
        raise ModelError(
            f"cannot load {source.name}: its config.json is invalid: {' '.join(str(error).split())}"
        ) from error
    except (EOFError, KeyError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"cannot load {source.name}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [f"{type(error).__name__}."])[0]
