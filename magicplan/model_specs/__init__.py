"""What models are: presets in the Hugging Face config format, and any config.json of a user's."""

from magicplan.model_specs.config import from_config as from_config
from magicplan.model_specs.load import Named as Named
from magicplan.model_specs.load import all_models as all_models
from magicplan.model_specs.load import load as load
from magicplan.model_specs.load import names as names
from magicplan.model_specs.load import preset_info as preset_info
from magicplan.model_specs.load import resolve as resolve
from magicplan.model_specs.shape import ModelShape as ModelShape
