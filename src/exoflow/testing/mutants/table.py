"""All mutants by name."""

from __future__ import annotations

from exoflow.testing.mutants.bugs_of_decisions import DECISIONS
from exoflow.testing.mutants.bugs_of_driving import DRIVING
from exoflow.testing.mutants.bugs_of_keeping import KEEPING
from exoflow.testing.mutants.bugs_of_referring import REFERRING
from exoflow.testing.mutants.mutant import Mutant

MUTANTS: dict[str, Mutant] = {mutant.name: mutant for mutant in (*DECISIONS, *DRIVING, *KEEPING, *REFERRING)}
