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

session = onnxruntime.InferenceSession(sys.argv[1])
metadata = session.get_modelmeta().custom_metadata_map
names, mode = json.loads(metadata["class_names"]), json.loads(metadata["preprocessing"])["mode"]


class Handler(BaseHTTPRequestHandler):
    """Answers the bytes of an image with the probability of every class."""

    def do_POST(self) -> None:  # noqa: D102 - the name that http.server asks for
        try:
            image = Image.open(io.BytesIO(self.rfile.read(int(self.headers["Content-Length"]))))
            pixels = np.asarray(ImageOps.exif_transpose(image).convert(mode))
        except (OSError, TypeError, ValueError):
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
