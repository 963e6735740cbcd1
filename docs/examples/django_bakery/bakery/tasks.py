"""The tasks: sync functions, which use Django as a view does."""

from trio_tasks import Router
from trio_tasks.layers import DjangoConnections

from .models import Order

tasks = Router()
with_database = tasks.task(layers=[DjangoConnections()], timeout=60)


@with_database
def bake(order_id: int) -> str:
    order = Order.objects.get(pk=order_id)
    order.state = "baked"
    order.save()
    return f"{order.item} is ready"
