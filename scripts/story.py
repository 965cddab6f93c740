"""The demo: what a team does with reconciler, told with the real commands. Each step proves what it says, or fails."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import stage
import yaml
from harness.engine import PrivateEngine
from harness.waiting import eventually

_COLOURS = sys.stdout.isatty() and "NO_COLOR" not in os.environ
_LONGEST_LINE = 150


def say(text: str) -> None:
    """Plain words."""
    print(text, flush=True)


def tell(text: str) -> None:
    """A paragraph."""
    say("\n" + textwrap.fill(text, 112))


def title(text: str) -> None:
    """A new chapter."""
    say(f"\n\033[1m{text}\033[0m" if _COLOURS else f"\n{text}\n{'-' * len(text)}")


def quote(text: str) -> None:
    """Something a program printed."""
    for line in text.rstrip().splitlines():
        say(f"    {line if len(line) <= _LONGEST_LINE else line[: _LONGEST_LINE - 3] + '...'}")


def prove(fact: object, what: str) -> None:
    """Stop the demo when what it is about to say is not true."""
    if not fact:
        raise AssertionError(f"this should be true and is not: {what}")


class Story:
    """One run of the demo in an empty directory."""

    def __init__(self, room: Path) -> None:
        self.room = room
        self.checkout = room / "shop"
        self.settings = room / "agent.yaml"
        self.engine = PrivateEngine()
        self.nginx = stage.Nginx(room, room / "state" / "nginx" / "current")
        self.visitors = stage.Visitors()
        self.agent: subprocess.Popen[bytes] | None = None
        self.secrets: dict[str, str] = {}

    # -- telling -----------------------------------------------------------------------------------------------------

    def run(self, command: str, *, code: int = 0, show: Callable[[str], str] | None = None) -> str:
        """Run a command in the checkout, show it and what it printed."""
        say(f"\n  \033[36m$ {command}\033[0m" if _COLOURS else f"\n  $ {command}")
        environment = {
            **os.environ,
            "SOPS_AGE_KEY_FILE": str(self.room / "age.key"),
            "GIT_CONFIG_GLOBAL": str(self.room / "gitconfig"),
        }
        done = subprocess.run(
            # What people type is shorter than what finds this demo's agent.
            ["sh", "-c", re.sub(r"^reconciler ", f"reconciler --config {self.settings} ", command)],
            cwd=self.checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        output = done.stdout
        quote(show(output) if show else output)
        prove(done.returncode == code, f"{command!r} ends with {code}, not {done.returncode}:\n{output}")
        return output

    def commit(self, message: str) -> float:
        """Commit everything and push; return the moment of the push."""
        self.run(f"git add -A && git commit -qm '{message}'")
        return self.push()

    def push(self) -> float:
        """Push; return the moment."""
        began = time.monotonic()
        self.run("git push -q")
        return began

    def replicas(self, app: str) -> list[str]:
        """Names of the app's running containers."""
        client = self.engine.client()
        try:
            found = client.api.containers(filters={"label": f"reconciler.app={app}"})
            return sorted(container["Names"][0].lstrip("/") for container in found)
        finally:
            client.close()

    def wait_for_version(self, version: str, replicas: int = 2) -> float:
        """Until all of the app's containers and every visitor's answers are of this version; return the moment."""

        def arrived() -> bool:
            recent = self.visitors.answers[-10:]
            return {answer.body for answer in recent} == {version} and len(self.replicas("web")) == replicas

        eventually(arrived, within=60, what=f"every visitor sees web {version}")
        first = len(self.visitors.answers)
        while first and self.visitors.answers[first - 1].body == version:
            first -= 1
        return self.visitors.answers[first].at

    def visitors_saw(self, since: float) -> None:
        """Say how many requests came back since then; none may have failed."""
        total, failed = self.visitors.since(since)
        prove(total and not failed, f"no request failed: {failed[:3]}")
        say(f"\n  Visitors meanwhile: {total} requests, {len(failed)} failed.")

    # -- the chapters ------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Start what a host has, and make a team's repository out of example-repo."""
        title("A host, and a team's repository")
        self.engine.start()
        (self.room / "state" / "nginx").mkdir(parents=True)
        self.nginx.start()
        images = stage.make_images(self.engine)
        tell(
            "A Docker Engine and an nginx of this demo's own run in a network of their own. No image can be pulled "
            f"there, so {len(images)} small ones are made of busybox, under the names that the manifests use."
        )

        shutil.copytree(stage.ROOT / "example-repo", self.checkout)
        (self.room / "gitconfig").write_text(
            "[user]\nname = Ada\nemail = ada@example.com\n[init]\ndefaultBranch = main\n"
        )
        subprocess.run(["age-keygen", "-o", self.room / "age.key"], check=True, capture_output=True, timeout=20)
        self.settings.write_text(
            yaml.safe_dump(
                {
                    "host": "web-1",
                    "repository": {"url": str(self.room / "config.git"), "interval": "1s"},
                    "docker": {"socket": str(self.engine.socket)},
                    "nginx": {"command": self.nginx.command, "config": str(self.nginx.config)},
                    "sops": {"age_key": str(self.room / "age.key")},
                    "state": str(self.room / "state"),
                    "runtime": "/run/reconciler",
                }
            )
        )
        self.run("git init -q . && git init -q --bare ../config.git && git remote add origin ../config.git")
        tell("What shall run is written down in this repository:")
        self.run("ls -d *.yaml apps/*/* shared/*")
        self.run("cat apps/web/app.yaml", show=lambda text: text.partition("\n")[2])

    def encrypt(self) -> None:
        """Write fresh secrets for this host's key."""
        title("Secrets are encrypted in it")
        public = subprocess.run(
            ["age-keygen", "-y", self.room / "age.key"], check=True, capture_output=True, text=True, timeout=20
        ).stdout.strip()
        rules = self.checkout / ".sops.yaml"
        rules.write_text(re.sub(r"age1[0-9a-z]+", public, rules.read_text()))
        password = secrets.token_urlsafe(18)
        self.secrets = {"DATABASE_PASSWORD": password, "payment_key": secrets.token_urlsafe(18), "password": password}
        for app, keys in (("api", ("DATABASE_PASSWORD", "payment_key")), ("db", ("password",))):
            file = self.checkout / "apps" / app / "secrets.sops.yaml"
            file.write_text(yaml.safe_dump({key: self.secrets[key] for key in keys}))
            self.run(f"sops encrypt -i apps/{app}/secrets.sops.yaml")
        self.run("grep -v '^ ' apps/api/secrets.sops.yaml")
        text = (self.checkout / "apps/api/secrets.sops.yaml").read_text()
        prove(not any(secret in text for secret in self.secrets.values()), "the file holds no plain text")
        tell("Is everything right? No Docker, no key and no host is needed to find out:")
        self.run("reconciler validate .")

    def first_deploy(self) -> None:
        """Push, start the agent, see the app answer."""
        title("The first deploy")
        self.run("git add -A && git commit -qm 'The shop' && git push -q -u origin main")
        began = time.monotonic()
        say("\n  $ reconciler run &        (the agent; on a host systemd starts it)")
        self.agent = subprocess.Popen(
            ["reconciler", "--config", str(self.settings), "run"],
            stdout=(self.room / "agent.log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        page = eventually(self._page, within=90, what="the shop answers through nginx")
        took = time.monotonic() - began
        tell(f"After {took:.1f} s the shop answers through nginx: two web servers, the API behind them, the database.")
        say("\n  GET http://shop.example.com/")
        quote(page)
        proof = hashlib.sha256(self.secrets["payment_key"].encode()).hexdigest()[:12]
        prove(proof in page, "the API has its secret")
        tell(f"The API has its secret: sha256 of the payment key that was encrypted above begins with {proof}.")
        self.wait_until("converged")
        self.run("reconciler status")
        prove(stage.request("/api/", method="POST").body.startswith("1 orders in EUR"), "an order can be placed")
        self.visitors.start()

    def _page(self) -> str:
        answer = stage.request("/")
        return answer.body if answer.status == 200 and "payment key" in answer.body else ""

    def wait_until(self, result: str) -> None:
        """Until the agent has seen what was pushed, and stands so with it: ``converged`` or ``blocked``."""
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=self.checkout, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

        def stands() -> bool:
            with urllib.request.urlopen("http://127.0.0.1:9465/status", timeout=10) as answer:
                status = json.load(answer)
            return bool(status["result"] == result and status["commit"]["sha"] == head)

        eventually(stands, within=60, what=f"the agent is {result} at {head[:8]}")

    def upgrade(self) -> None:
        """A commit deploys; nobody notices."""
        title("An upgrade is a commit")
        began = time.monotonic()
        self.run("sed -i 's|shop/web:.*|shop/web:1.5.0|' apps/web/app.yaml && git diff -U0 apps | grep '^[+-] *image'")
        pushed = self.commit("web 1.5.0: gift cards")
        done = self.wait_for_version("1.5.0")
        say(f"\n  {done - pushed:.1f} s after the push every visitor sees 1.5.0.")
        self.visitors_saw(began)

    def revert(self) -> None:
        """And git revert takes it back."""
        title("A rollback is a git revert")
        began = time.monotonic()
        self.run("git revert --no-edit HEAD", show=lambda text: text.splitlines()[0])
        pushed = self.push()
        done = self.wait_for_version("1.4.0")
        say(f"\n  {done - pushed:.1f} s after the push every visitor sees 1.4.0 again. No image was pulled.")
        self.visitors_saw(began)

    def broken(self) -> None:
        """A mistake is refused, and holds up nobody else."""
        title("A mistake changes nothing")
        began = time.monotonic()
        before = self.replicas("web")
        tell("Somebody mistypes a key for web, and in the same commit changes a setting of the worker:")
        self.run(
            "sed -i 's/^replicas: 2/replcas: 3/' apps/web/app.yaml && sed -i 's/\"2\"/\"1\"/' apps/worker/app.yaml"
        )
        worker = self.replicas("worker")
        problems = self.run("reconciler validate .", code=1)
        prove(re.search(r"apps/web/app\.yaml:\d+:\d+: .*replicas", problems), "the message says where and what")
        self.commit("Three web servers, and a brisker worker")
        self.wait_until("blocked")
        prove(self.replicas("worker") != worker, "the worker has its new setting")
        tell("The agent has refused web's manifest and deployed the worker's:")
        self.run("reconciler status", code=2)
        prove(self.replicas("web") == before, "web's containers are the same as before")
        self.visitors_saw(began)
        self.run("git revert --no-edit HEAD", show=lambda text: text.splitlines()[0])
        self.push()
        self.wait_until("converged")

    def drift(self) -> None:
        """What somebody breaks by hand is repaired."""
        title("What breaks is repaired")
        victim = self.replicas("web")[0]
        say(f"\n  $ docker rm -f {victim}")
        client = self.engine.client()
        began = time.monotonic()
        client.api.remove_container(victim, force=True)
        client.close()
        eventually(lambda: len(self.replicas("web")) == 2, within=60, what="repaired")
        self.wait_until("converged")
        say(f"\n  Repaired {time.monotonic() - began:.1f} s later; the other replica served meanwhile.")
        total, failed = self.visitors.since(began)
        say(f"  Visitors meanwhile: {total} requests, {len(failed)} failed.")
        prove(len(failed) <= 2, f"only what that container was answering may fail: {failed[:3]}")

    def remove(self) -> None:
        """A deleted manifest removes its app."""
        title("Removing an app is a commit, too")
        began = time.monotonic()
        self.run("git rm -rq apps/worker")
        self.commit("The worker has done its work")
        eventually(lambda: not self.replicas("worker"), within=60, what="the worker is gone")
        say("\n  Its container is gone. (Volumes are never removed.)")
        self.wait_until("converged")
        self.visitors_saw(began)

    def look(self) -> None:
        """Who did what when, and the metrics."""
        title("Who changed what, and when")
        history = self.run("reconciler history web")
        prove("Ada" in history, "the history names who did it")
        self.run("reconciler status")
        say("\nPrometheus sees the same:\n\n  GET http://127.0.0.1:9465/metrics")
        with urllib.request.urlopen("http://127.0.0.1:9465/metrics", timeout=10) as answer:
            metrics = answer.read().decode()
        chosen = re.findall(
            r'^reconciler_(?:app_info|app_replicas|deployments|drift).*{.*app="web".*', metrics, re.MULTILINE
        )
        quote("\n".join(chosen))
        prove(
            re.search(r'^reconciler_drift_repairs_total{app="web"} 1', metrics, re.MULTILINE), "the repair is counted"
        )

    def killed(self) -> None:
        """The agent is not in the way of traffic."""
        title("Without the agent")
        began = time.monotonic()
        prove(self.agent is not None and self.agent.poll() is None, "the agent has run all the time")
        if self.agent is not None:
            self.agent.send_signal(signal.SIGKILL)
            self.agent.wait(10)
        time.sleep(2)  # two seconds of visitors
        prove("payment key" in self._page(), "the shop still answers")
        tell("The agent was killed (SIGKILL). Containers, names and nginx go on without it.")
        self.visitors_saw(began)

    def end(self) -> None:
        """Stop everything in order; what remains goes with the namespaces."""
        if self.agent is not None and self.agent.poll() is None:
            self.agent.terminate()
            self.agent.wait(10)
        self.nginx.stop()
        self.engine.destroy()


def play(room: Path, pid: int) -> int:
    """Tell the whole story; on failure show what the agent said."""
    story = Story(room)
    began = time.monotonic()
    try:
        story.prepare()
        story.encrypt()
        story.first_deploy()
        story.upgrade()
        story.revert()
        story.broken()
        story.drift()
        story.remove()
        story.look()
        story.killed()
        story.visitors.stop()
        total, failed = story.visitors.since(0)
        title("The end")
        tell(f"{total} requests in {time.monotonic() - began:.0f} s of story, {len(failed)} failed.")
        if "--stay" in sys.argv:
            say(f"Everything still runs: nsenter --target {pid} --all bash. Ctrl-C ends it.")
            signal.pause()
    except AssertionError as error:
        tell(f"The demo failed: {error}")
        log = room / "agent.log"
        if log.exists():
            tell("The agent's last lines:")
            quote("\n".join(log.read_text().splitlines()[-30:]))
        return 1
    finally:
        story.end()
    say("Everything that was started is stopped again. Next: README.md, example-repo/README.md.")
    return 0


if __name__ == "__main__":
    raise SystemExit(stage.apart(play))
