from .arrays import make_plan as make_plan
from .arrays import open_volume as open_volume
from .arrays import predict as predict
from .arrays import segment as segment
from .errors import BadInput as BadInput
from .errors import BlockFailed as BlockFailed
from .errors import StoreRefused as StoreRefused
from .finishing import finalize as finalize
from .labelling import consensus as consensus
from .labelling import write_consensus as write_consensus
from .models import Model as Model
from .models import load_model as load_model
from .options import Options as Options
from .pipeline import run as run
from .plan import Plan as Plan
from .slices import label_planes as label_planes
from .slices import preview_slices as preview_slices

__version__: str
