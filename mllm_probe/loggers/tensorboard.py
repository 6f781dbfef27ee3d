"""TensorBoard: curves over layers, figures and settings, in `tensorboard/DIGEST` in the folder of a run."""

import numpy as np

from mllm_probe.loggers.told import Record


class TensorBoard:
    """Events of a run that was repeated in the same folder are replaced."""

    needs = ("tensorboard",)

    def log(self, record: Record) -> str:
        from PIL import Image
        from torch.utils.tensorboard import SummaryWriter

        folder = record.paths.logged("tensorboard") / record.name
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        with SummaryWriter(str(folder)) as writer:
            for point in record.points:
                writer.add_scalar(point.name, point.value, point.step)
            for path in record.figures:
                with Image.open(path) as picture:
                    writer.add_image(path.stem, np.asarray(picture.convert("RGB")), dataformats="HWC")
            writer.add_hparams(record.settings, record.chosen, run_name=".")
        return f"tensorboard --logdir {record.outputs.root}"
