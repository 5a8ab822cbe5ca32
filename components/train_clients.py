from kfp import dsl

from components.images import CLIENT


@dsl.component(base_image=CLIENT, install_kfp_package=False)
def train_clients(store: str, batch: str) -> dict:
    """Train a batch of clients where their data are."""
    from fededge.steps.train_clients import train_clients as step

    return step(store=store, batch=batch)
