"""What machines are: datasheets with their sources, and calibrations of what was seen of them."""

from magicplan.hardware_specs.accelerator import Accelerator as Accelerator
from magicplan.hardware_specs.accelerator import Source as Source
from magicplan.hardware_specs.load import all_accelerators as all_accelerators
from magicplan.hardware_specs.load import identify as identify
from magicplan.hardware_specs.load import load as load
from magicplan.hardware_specs.load import names as names
from magicplan.hardware_specs.load import resolve as resolve
