"""The images that the components run on. `fededge pipelines export` puts others in their place."""

from fededge import __version__

CLIENT = f"fededge-tensorflow:{__version__}"  # has the workload and its library
SERVER = f"fededge-tensorflow:{__version__}"
