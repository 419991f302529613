"""Lets the tests make configurations although every module of headspec is type-checked while they run."""

from headspec.runtime.configuration import PrunedGPTNeoXConfig

# jaxtyping's import hook takes this class for an ordinary dataclass and refuses the keywords that transformers'
# configurations take beside their fields. Not needed once the class has `__no_type_check__ = True`.
if PrunedGPTNeoXConfig.__init__.__globals__["__name__"].startswith("jaxtyping"):
    PrunedGPTNeoXConfig.__init__ = PrunedGPTNeoXConfig.__init__.__wrapped__
