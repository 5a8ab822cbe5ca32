from pathlib import Path

from tests.frameworks import ignore_without_frameworks

collect_ignore = ignore_without_frameworks(Path(__file__).parent)
