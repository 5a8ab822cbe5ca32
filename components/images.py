"""The images that the components run on. `fededge pipelines export` puts others in their place."""

from fededge import __version__

CLIENT = f"fededge-tensorflow:{__version__}"  # has the workload and its library
SERVING = f"fededge-serving:{__version__}"  # answers with models; fl_deploy has it as an input
SERVING_TENSORFLOW = f"fededge-serving-tensorflow:{__version__}"
SERVER = f"fededge-tensorflow:{__version__}"
