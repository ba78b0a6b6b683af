"""Images, and the order in which they are shown."""

from ganzoo.data.images import ImageData as ImageData
from ganzoo.data.unpaired import Unpaired as Unpaired
