from kfp import dsl

from components.images import SERVER


@dsl.component(base_image=SERVER, install_kfp_package=False)
def aggregate_updates(store: str, attempt: str, reports: list, clients: dsl.Output[dsl.Metrics]) -> str:
    """Make the next model of the updates that count, and return its digest."""
    from fededge.steps.aggregate_updates import aggregate_updates as step

    done = step(store=store, attempt=attempt, reports=reports)
    for name, count in done.clients.items():
        clients.log_metric(name, count)
    return done.model
