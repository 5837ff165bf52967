"""Reading pictures."""

from mmcv.transforms import LoadImageFromFile as _LoadImageFromFile

from mmsparx.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImageFromFile(_LoadImageFromFile):
    """mmcv's, with an error that names the picture: OpenCV's own, of an empty file, does not.

    Raises:
        OSError: the picture at `img_path` cannot be read, and `ignore_empty` is not set.
    """

    def transform(self, results: dict) -> dict | None:
        try:
            return super().transform(results)
        except Exception as error:  # whatever a file backend or a decoder raises
            raise OSError(
                f'the picture {results["img_path"]} cannot be read: {error}. Replace it, or pass over such pictures in '
                'training with ignore_empty=True on LoadImageFromFile'
            ) from error
