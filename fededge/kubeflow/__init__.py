"""The only part that imports kfp at run time: composing, exporting and running pipelines."""
