"""Settings: orders and tasks are in one SQLite file."""

SECRET_KEY = "an example has no secrets"
ALLOWED_HOSTS = ["testserver"]
ROOT_URLCONF = "bakery.views"
INSTALLED_APPS = ["bakery"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": "bakery.db",
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},  # wait for the lock when a transaction begins
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

TRIO_TASKS_URL = "sqlite:///bakery.db?join_existing=true"
