"""Reading images."""

from mmcv.transforms import LoadImageFromFile as _LoadImageFromFile

from mmsparx.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImageFromFile(_LoadImageFromFile):
    """mmcv's, with an error that names the image: OpenCV's own, of an empty file, does not.

    Raises:
        OSError: the image at `img_path` cannot be read, and `ignore_empty` is not set.
    """

    def transform(self, results: dict) -> dict | None:
        try:
            return super().transform(results)
        except Exception as error:  # whatever a file backend or a decoder raises
            raise OSError(
                f'the image {results["img_path"]} cannot be read: {error}. Replace it, or pass over such images in '
                'training with ignore_empty=True on LoadImageFromFile'
            ) from error
