"""Published acceptance rates by draft method, and the choice among them for a workload."""

from magicplan.acceptance_specs.choose import Wanted as Wanted
from magicplan.acceptance_specs.choose import choose as choose
from magicplan.acceptance_specs.choose import methods as methods
