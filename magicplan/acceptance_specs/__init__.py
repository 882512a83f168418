"""Published acceptance rates by draft method, and the choice among them for a workload."""

from magicplan.acceptance_specs.choose import Wanted as Wanted
from magicplan.acceptance_specs.choose import choose as choose
from magicplan.acceptance_specs.choose import methods as methods
from magicplan.acceptance_specs.files import import_measured as import_measured
from magicplan.acceptance_specs.files import load_ranks as load_ranks
from magicplan.acceptance_specs.files import parse_acceptance as parse_acceptance
