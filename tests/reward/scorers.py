"""Scorers that work, and scorers that fail in every way. Images select the behaviour by their first byte."""

import os
import time

import numpy as np

BAD = 13  # value of the first byte that makes the failing scorers fail


class Brightness:
    """1 for black, 5 for white. Leaves name and version out."""

    def score(self, images):
        return (1 + 4 * images.mean(axis=(1, 2, 3)) / 255).astype(np.float32)


class Slow(Brightness):
    """Takes 0.1 s a call."""

    def score(self, images):
        time.sleep(0.1)
        return super().score(images)


class Raising(Brightness):
    """Raises when one of the images is bad."""

    def score(self, images):
        if (images[:, 0, 0, 0] == BAD).any():
            raise RuntimeError("bad image")
        return super().score(images)


class NotANumber(Brightness):
    """Rates bad images NaN."""

    def score(self, images):
        return np.where(images[:, 0, 0, 0] == BAD, np.nan, super().score(images))


class WrongShape(Brightness):
    """Returns too many scores when one of the images is bad."""

    def score(self, images):
        scores = super().score(images)
        return np.append(scores, 1.0) if (images[:, 0, 0, 0] == BAD).any() else scores


class Hanging(Brightness):
    """Never returns when one of the images is bad."""

    def score(self, images):
        if (images[:, 0, 0, 0] == BAD).any():
            time.sleep(1000)
        return super().score(images)


class Dying(Brightness):
    """Takes the process with it when one of the images is bad."""

    def score(self, images):
        if (images[:, 0, 0, 0] == BAD).any():
            os._exit(3)
        return super().score(images)


class Recording(Brightness):
    """Appends the number of images of each call to the file named by RECORD_FILE."""

    name, version = "recording", "7"

    def score(self, images):
        with open(os.environ["RECORD_FILE"], "a") as file:
            file.write(f"{len(images)}\n")
        return super().score(images)


class RecordingSlow(Recording):
    """The same, taking 0.1 s a call."""

    def score(self, images):
        time.sleep(0.1)
        return super().score(images)


class Environment:
    """Rates every image the number in CUDA_VISIBLE_DEVICES."""

    def score(self, images):
        return np.full(len(images), float(os.environ["CUDA_VISIBLE_DEVICES"]), np.float32)


class Broken(Brightness):
    """Cannot be built."""

    def __init__(self):
        raise ValueError("no weights\nhere")


class LoadsForEver(Brightness):
    """Is never ready."""

    def __init__(self):
        time.sleep(1000)


class NoScore:
    """Is no scorer."""
