# mmpose's defaults, with TensorBoard and the gate pictures added.
default_scope = "mmpose"
# All that skippose needs of a config: importing it registers its names with mmpose.
custom_imports = dict(imports=["skippose"], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(
        type="CheckpointHook", interval=1, save_best="PCK", rule="greater", max_keep_ckpts=2
    ),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="PoseVisualizationHook", enable=False),
    badcase=dict(
        type="BadCaseAnalysisHook",
        enable=False,
        out_dir="badcase",
        metric_type="loss",
        badcase_thr=5,
    ),
)
custom_hooks = [
    dict(type="ExactResumeHook"),  # killed and resumed gives what an uninterrupted run gives
    dict(type="PlainCheckpointHook"),  # checkpoints load with weights_only=True
    dict(type="SyncBuffersHook"),  # the statistics of batch norm, at the end of each epoch
    dict(type="GateVisualizationHook"),
]

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)

vis_backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
visualizer = dict(type="PoseLocalVisualizer", vis_backends=vis_backends, name="visualizer")

log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True, num_digits=6)
log_level = "INFO"
resume = False
backend_args = dict(backend="local")
