"""Labels of the columns of ``Store.frame()`` on pages and in the terminal."""

from __future__ import annotations

from rhobench.config.metrics import METRICS

LABELS = {
    "run_id": "Run",
    "experiment": "Experiment",
    "status": "Status",
    "reason": "Reason",
    "configuration": "Configuration (hash)",
    "dataset": "Validation data",
    "model": "Model",
    "backbone": "Backbone",
    "rho": "ρ trained",
    "rho_infer": "ρ",
    "seed": "Seed",
    "protocol": "Protocol",
    "device": "Device",
    "backend": "Attention backend",
    "threads": "CPU threads",
    "load_average": "Load average",
    "busy_cores": "Cores used by other processes",
    "co_running": "Other programs and their cores",
    "timing_status": "Timing",
    "timing_reason": "Reason of the timing status",
    "manifest_file": "Manifest of the measurement",
    "batch_size": "Batch size",
    "precision": "Precision",
    "height": "Input height (px)",
    "width": "Input width (px)",
    "flops_count": "Rules of counting operations",
    "latency_p10_ms": "Latency, 10th percentile (ms)",
    "latency_p90_ms": "Latency, 90th percentile (ms)",
    "latency_low_ms": "Latency, low end of the interval (ms)",
    "latency_high_ms": "Latency, high end of the interval (ms)",
    "latency_samples": "Timed calls",
    "samples_file": "File of the timed calls",
    "train_seconds": "Training (s)",
    "eval_seconds": "Evaluation (s)",
    "cpu_seconds": "Processor time (s)",
    "gpu_seconds": "GPU time (s)",
    "started_at": "Started",
    "finished_at": "Finished",
    **{m.name: m.title for m in METRICS.values()},
}
"""Labels of columns of ``Store.frame()``; a field of the configuration is called by its path."""
