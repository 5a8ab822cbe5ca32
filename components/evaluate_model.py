from kfp import dsl

from components.images import CLIENT


@dsl.component(base_image=CLIENT, install_kfp_package=False)
def evaluate_model(
    store: str,
    attempt: str,
    model: str,
    metrics: dsl.Output[dsl.Metrics],
    learning_curve: dsl.Output[dsl.HTML],
):
    """Measure the new model on held-out data, and draw the learning curve so far."""
    from fededge.steps.evaluate_model import evaluate_model as step

    for name, value in step(store=store, attempt=attempt, model=model, curve_path=learning_curve.path).items():
        metrics.log_metric(name, value)
