"""Images, and the order in which they are shown."""

from ganzoo.data.images import ImageData as ImageData
