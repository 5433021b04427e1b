"""Forecasting what a training step takes: how long it lasts, and the bytes that it foresees."""


def plan(model, method):
    """Return what is forecast."""
    from gemma_bench.methods.choice import method_named
    from gemma_bench.training.plan import Plan, trainable_size

    return Plan(trainable_size(model), method_named(method, 16), batch_size=1, length=256)


class Forecast:
    """A step of the 270m's shape, forecast on tensors without contents."""

    version = "1"
    params = (["full", "lora", "relora", "rank1"],)
    param_names = ("method",)

    def setup(self, method):
        from gemma_bench.measure.training_memory import forecast

        self.plan, self.forecast = plan("270m", method), forecast

    def track_cpu_time(self, method):  # noqa: ARG002
        import time

        start = time.process_time()
        self.forecast(self.plan)
        return time.process_time() - start

    track_cpu_time.unit = "s"

    def track_predicted_peak(self, method):  # noqa: ARG002
        return self.forecast(self.plan).peak_bytes

    track_predicted_peak.unit = "bytes"

    def track_closed_form_off_by(self, method):  # noqa: ARG002
        from gemma_bench.measure.training_closed_form import closed_form

        foreseen = self.forecast(self.plan).peak_bytes
        return 100 * abs(closed_form(self.plan).peak_bytes / foreseen - 1)

    track_closed_form_off_by.unit = "%"
