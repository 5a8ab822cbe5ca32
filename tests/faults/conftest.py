from tests.frameworks import ignore_without_tensorflow

collect_ignore_glob = ignore_without_tensorflow()
