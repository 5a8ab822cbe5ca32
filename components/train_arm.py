from kfp import dsl

from components.images import CLIENT


@dsl.component(base_image=CLIENT, install_kfp_package=False)
def train_arm(store: str, batch: str) -> dict:
    """Train and measure the models of one batch of a comparison, where their data are."""
    from fededge.steps.train_arm import train_arm as step

    return step(store=store, batch=batch)
