"""The pipelines, from the DSL. `make compile` writes `pipelines/compiled/*.yaml`, which is what people run."""
