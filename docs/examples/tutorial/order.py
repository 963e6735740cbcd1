"""Order something in the shop. Usage: python order.py ITEM EMAIL"""

import json
import os
import sys
from urllib.request import Request, urlopen

url = f"http://127.0.0.1:{os.environ.get('PORT', '8000')}/orders"
order = {"item": sys.argv[1], "email": sys.argv[2]}
request = Request(url, json.dumps(order).encode(), {"Content-Type": "application/json"})
with urlopen(request) as answer:
    print(json.load(answer))
