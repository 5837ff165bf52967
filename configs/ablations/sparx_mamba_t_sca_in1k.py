# The paper reports a top-1 accuracy of 83.3 on ImageNet-1K's validation set.
# Fitted: FcaFormer's class token, depth biases and token scales are left out; the paper's memory is that of
# own_tokens=True.
_base_ = ['./_base_/in1k.py', './_base_/sca.py']

model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[-1]))
