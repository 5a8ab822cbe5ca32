from kfp import dsl

from components.images import SERVER


@dsl.component(base_image=SERVER, install_kfp_package=False)
def aggregate_updates(store: str, attempt: str, reports: list) -> str:
    """Average the updates into the next model, and return its digest."""
    from fededge.steps.aggregate_updates import aggregate_updates as step

    return step(store=store, attempt=attempt, reports=reports)
