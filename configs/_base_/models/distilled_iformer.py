# The same with a second head that learns from a teacher, hard distillation as in DeiT (paper, section 4.1).
_base_ = './classifier_iformer.py'

model = dict(
    type='mmiformer.models.heads.distillation.DistilledClassifier',
    head=dict(num_heads=2),
    distillation='hard',
    weight=0.5,
    # RegNetY-16GF as DeiT trained it, 82.9 top-1; timm's plain `regnety_160` now means other weights.
    # Needs timm, and fetches 334 MB, when training starts.
    teacher=dict(
        type='TimmClassifier',
        model_name='regnety_160.deit_in1k',
        checkpoint_path='https://huggingface.co/timm/regnety_160.deit_in1k/resolve/main/model.safetensors',
    ),
)
