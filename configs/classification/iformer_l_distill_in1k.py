_base_ = './iformer_m_distill_in1k.py'

# Without drop path, unlike the one without a teacher.
model = dict(backbone=dict(arch='l'), head=dict(in_channels=384))
