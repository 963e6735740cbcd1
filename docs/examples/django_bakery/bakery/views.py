"""A view that stores an order and pushes its task in one transaction."""

import atexit
from functools import cache

from django.db import connection, transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path
from trio_tasks import Call, SqliteStorage, SyncSqliteStorage

from .models import Order
from .tasks import bake, tasks


@cache  # opened by the first request, so after the server has forked
def queue() -> SyncSqliteStorage[Call[object]]:
    storage = SqliteStorage.open_sync("bakery.db", Call[object], codec=tasks, join_existing=True)
    atexit.register(storage.close)
    return storage


def take_order(request: HttpRequest) -> JsonResponse:
    storage = queue()  # before the transaction: to open it takes the lock of the file
    with transaction.atomic():
        order = Order.objects.create(item=request.POST["item"])
        task_id = storage.push_in(connection, bake.bind(order.pk))
        transaction.on_commit(storage.wake)
        if order.item == "a wedding cake":
            transaction.set_rollback(True)  # the task goes with the order
            return JsonResponse({"error": f"we do not bake {order.item}"}, status=400)
    return JsonResponse({"order": order.pk, "task": task_id}, status=201)


urlpatterns = [path("orders", take_order)]
