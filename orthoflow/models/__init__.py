"""Networks: the card (facts), the contract (`Model`), loading with trust rules, our own nets.

`card` and `source` import neither torch nor anything else that is heavy, so a plan can be made on a
machine that has no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
