# SparX-Mamba-T with Bi-SSM in place of SS2D (Table 9), in the style of VMamba. The paper's text gives no drop path; T's
# is used.
_base_ = './sparx_mamba_t.py'

backbone = dict(style='vmamba', token_mixer=dict(type='BiSSM'), drop_path_rate=0.2)
init_cfg = None
no_pretrained_weights = 'ImageNet weights of SparX-Mamba-T with Bi-SSM are not published'
