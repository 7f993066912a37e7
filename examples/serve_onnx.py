"""Serve what `weightgen export HEAD --onnx FILE --preprocessing` wrote, with onnxruntime and no torch.

python examples/serve_onnx.py birds.onnx 8000
curl --data-binary @photo.jpg http://127.0.0.1:8000      # {"heron": 0.98, "wren": 0.02}
"""

import io
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

if len(sys.argv) != 3:
    sys.exit("usage: python serve_onnx.py FILE.onnx PORT")
session = onnxruntime.InferenceSession(sys.argv[1])
metadata = session.get_modelmeta().custom_metadata_map
names, preprocessing = (json.loads(metadata[key]) for key in ("class_names", "preprocessing"))
if not preprocessing["in_file"]:
    sys.exit(f"{sys.argv[1]}: takes preprocessed images; export it again with --preprocessing")
LARGEST = 2**25  # bytes of a request


class Handler(BaseHTTPRequestHandler):
    """Answers the bytes of an image with the probability of every class."""

    def do_POST(self) -> None:  # noqa: D102 - the name that http.server asks for
        try:
            length = int(self.headers["Content-Length"])
            if not 0 < length <= LARGEST:
                raise ValueError(length)
            image = Image.open(io.BytesIO(self.rfile.read(length)))
            pixels = np.asarray(ImageOps.exif_transpose(image).convert(preprocessing["mode"]))
        except (OSError, TypeError, ValueError, Image.DecompressionBombError):
            self.send_error(400, "not an image")
            return
        batch = pixels.reshape(1, *pixels.shape[:2], -1)
        (probabilities,) = session.run(["probabilities"], {"images": batch})[0]
        answer = json.dumps(dict(zip(names, probabilities.tolist(), strict=True)), ensure_ascii=False).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(answer)


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler) as server:
        print(f"serving on port {server.server_port}", flush=True)
        server.serve_forever()
