"""The table of measured results in README.md and README.zh.md, made from benchmarks/results/*.json.

    python benchmarks/readme_table.py            # writes the table into both files
    python benchmarks/readme_table.py --check    # writes nothing; exit code 1 where a table is out of date

A result file that is not there makes no row, and a figure that a file lacks is left out. tests/test_readme.py checks
that the tables are those of the committed results.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

Result = Mapping[str, Any]


class Text(NamedTuple):
    """The same words in both languages."""

    en: str
    zh: str


class Row(NamedTuple):
    claim: Text
    figure: Text
    hardware: Text
    command: str


READMES = {"README.md": "en", "README.zh.md": "zh"}
HEADER = {
    "en": ("What was measured", "Result", "Hardware", "Command"),
    "zh": ("测量内容", "结果", "硬件", "命令"),
}
NOTHING = Text("Nothing measured yet.", "尚无测量结果。")


def table(language: str, results: Path = RESULTS) -> str:
    """The Markdown table of all results that are there, in "en" or "zh"."""
    rows = [row for name, make_rows in MAKERS.items() for row in make_rows(_read(results / f"{name}.json"))]
    if not rows:
        return getattr(NOTHING, language)
    lines = [_line(HEADER[language]), "|---|---|---|---|"]
    for row in rows:
        texts = (getattr(text, language) for text in (row.claim, row.figure, row.hardware))
        lines.append(_line((*texts, f"`{row.command}`" if row.command else "")))
    return "\n".join(lines)


def with_table(readme: str, new_table: str) -> str:
    """A README's text with the table between its marker lines replaced.

    Raises:
        ValueError: the marker lines are not there, each once.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"expected one line {BEGIN} and one line {END}")
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{new_table}\n{END}{after}"


# Rows -------------------------------------------------------------------------------------------------------------


def mnist_rows(result: Result) -> Iterator[Row]:
    for recipe, figures in result.get("recipes", {}).items():
        claim = Text(f"MNIST, recipe `{recipe}`: test accuracy", f"MNIST，配方 `{recipe}`：测试集准确率")
        yield _row(result, claim, _accuracy_and_time(figures))


def digits_rows(result: Result) -> Iterator[Row]:
    claim = Text("`convcraft demo` (1,797 digits): test accuracy", "`convcraft demo`（1,797 个数字）：测试集准确率")
    figure = _accuracy_and_time(result)
    if figure.en:
        yield _row(result, claim, figure)


def kill_rows(result: Result) -> Iterator[Row]:
    if "kills" in result:
        kills, same = _count(result["kills"]), _count(result.get("identical", 0))
        claim = Text(
            "`kill -9` at random moments, then `--resume`: same final weights and log, bit for bit",
            "在随机时刻 `kill -9` 后用 `--resume` 续训：最终权重与日志逐位一致",
        )
        yield _row(result, claim, Text(f"{same} of {kills}", f"{kills} 次中 {same} 次"))
    if "damage_kinds" in result:
        done, found = _count(result["damages"]), _count(result.get("detected", 0))
        claim = Text(
            "Damage to the newest checkpoint: detected, the older one used",
            "损坏最新检查点：被发现，并退回到较早的检查点",
        )
        yield _row(result, claim, Text(f"{found} of {done}", f"{done} 次中 {found} 次"))


def bad_image_rows(result: Result) -> Iterator[Row]:
    if "bad_images" not in result:
        return
    bad, good = _count(result["bad_images"]), _count(result.get("good_images", 0))
    right, crashes, hangs = (_count(result.get(key, 0)) for key in ("as_expected", "crashes", "hangs"))
    unnamed = _count(result.get("refused_but_not_named_by_scan", 0))
    claim = Text(
        f"{bad} bad or unusual and {good} good images: read as a viewer shows them, or refused by name",
        f"{bad} 张损坏或少见的图像与 {good} 张正常图像：按看图软件所见读取，或指名拒绝",
    )
    figure = Text(
        f"{right} of {bad + good} as expected; {crashes} crashes, {hangs} hangs, {unnamed} refused without a name",
        f"{bad + good} 张中 {right} 张符合预期；崩溃 {crashes} 次，卡死 {hangs} 次，未指名拒绝 {unnamed} 张",
    )
    yield _row(result, claim, figure)


NEAR_COPY_SETS = {
    "hymenoptera": Text("397 photos", "397 张照片"),
    "cifar10": Text("CIFAR-10, 60,000 images", "CIFAR-10，60,000 张图像"),
    "mnist": Text("MNIST, 70,000 images", "MNIST，70,000 张图像"),
}


def near_copy_rows(result: Result) -> Iterator[Row]:
    for name, words in NEAR_COPY_SETS.items():
        figures = result.get("results", {}).get(name)
        if figures is None:
            continue
        claim = Text(f"Near copies in {words.en}", f"{words.zh}中的近似重复图像")
        jpeg, half, crop = (
            f"{100 * figures['recall'][kind]:.1f} %"
            for kind in ("jpeg_quality_60", "half_resolution_and_back", "crop_90_to_95_percent")
        )
        joined = f"{100 * figures['joined_share']:.1f} %"
        figure = Text(
            f"found: {jpeg} of JPEG copies, {half} of halved, {crop} of cropped ones; {joined} of the set joined",
            f"找出 JPEG 副本 {jpeg}、缩小一半再放大的 {half}、裁剪的 {crop}；原数据集中 {joined} 被归为一组",
        )
        yield _row(result, claim, figure)


def train_speed_rows(result: Result) -> Iterator[Row]:
    if "ratio_to_textbook" not in result:
        return
    threads = _count(result["threads"])
    claim = Text(
        f"Training a small CNN on MNIST against the textbook loop (PIL, DataLoader, float32), {threads} threads",
        f"在 MNIST 上训练小型 CNN，对比教科书式循环（PIL、DataLoader、float32），{threads} 线程",
    )
    parts = [_spread(result["ratio_to_textbook"], TIMES)]
    if result.get("ratio_to_best_keras") is not None:
        keras = _spread(result["ratio_to_best_keras"], TIMES)
        parts.append(Text(f"{keras.en} the best Keras 3 backend", f"Keras 3 最快后端的 {keras.zh}"))
    if result.get("accuracy_gap") is not None:
        points = f"{100 * result['accuracy_gap']:+.2f}"
        parts.append(Text(f"test accuracy {points} points", f"测试集准确率相差 {points} 个百分点"))
    yield _row(result, claim, Text("; ".join(part.en for part in parts), "；".join(part.zh for part in parts)))


def residual_rows(result: Result) -> Iterator[Row]:
    networks = result.get("networks", {})
    if not {"resnet34", "plain34"} <= networks.keys():
        return
    claim = Text(
        "ResNet-34 against its plain twin on CIFAR-10, small budget: validation accuracy",
        "CIFAR-10 小预算下 ResNet-34 与其无捷径版本：验证集准确率",
    )
    residual, plain = (_spread(networks[name]["final_val_accuracy"], PERCENT) for name in ("resnet34", "plain34"))
    figure = Text(f"residual {residual.en}, plain {plain.en}", f"残差 {residual.zh}，无捷径 {plain.zh}")
    yield _row(result, claim, figure)


def cifar10_rows(result: Result) -> Iterator[Row]:
    if "test_accuracy" not in result:
        return
    threads = result.get("threads")
    claim = Text(
        f"CIFAR-10 (JPEG files), recipe `cifar10-cpu`, {threads} threads: test accuracy",
        f"CIFAR-10（JPEG 文件），配方 `cifar10-cpu`，{threads} 线程：测试集准确率",
    )
    yield _row(result, claim, _accuracy_and_time(result))


SEED_WORDS = {
    "001": Text("Article 001 repaired, MNIST", "文章 001 修复后，MNIST"),
    "003": Text(
        "Article 003 repaired, ResNet-18 on CIFAR-10 (JPEG files; the article claims 70 %)",
        "文章 003 修复后，CIFAR-10 上的 ResNet-18（JPEG 文件；文章声称 70 %）",
    ),
    "004": Text("Article 004 repaired, MNIST", "文章 004 修复后，MNIST"),
}


def seed_rows(result: Result) -> Iterator[Row]:
    for name, words in SEED_WORDS.items():
        figures = result.get("seeds", {}).get(name, {})
        if "test_accuracy" not in figures:
            continue
        claim = Text(f"{words.en}: test accuracy", f"{words.zh}：测试集准确率")
        figure = _accuracy_and_time({"test_accuracy": figures["test_accuracy"]})
        yield _row({**result, "hardware": figures.get("hardware", result.get("hardware"))}, claim, figure)


def decode_rows(result: Result) -> Iterator[Row]:
    if "hymenoptera" not in result:
        return
    claim = Text(
        "Decode and resize photos to 224 pixels against torchvision with PIL, per core (500 and 2000 pixels wide)",
        "解码并缩放照片到 224 像素，对比使用 PIL 的 torchvision，单核（500 与 2000 像素宽）",
    )
    small, large = (result[name]["ratios"] for name in ("hymenoptera", "large photos"))
    train, contract = "train: decode and resize", "contract"
    numbers = [ratios[name]["median"] for name in (train, contract) for ratios in (small, large)]
    figure = Text(
        "for training {:.2f} and {:.2f} times, by the contract {:.2f} and {:.2f} times".format(*numbers),
        "训练用 {:.2f} 与 {:.2f} 倍，按预处理约定 {:.2f} 与 {:.2f} 倍".format(*numbers),
    )
    yield _row(result, claim, figure)


def large_folder_rows(result: Result) -> Iterator[Row]:
    if "starts" not in result:
        return
    claim = Text(
        f"A folder of {result['files']:,} images: looked through at the first and at the second start",
        f"{result['files']:,} 张图像的文件夹：首次与再次启动时的扫描用时",
    )
    first, second = (result["starts"][name]["seconds"]["scan"] for name in ("first", "second"))
    yield _row(result, claim, Text(f"{first:.1f} s, then {second:.1f} s", f"{first:.1f} 秒，之后 {second:.1f} 秒"))


def finetune_rows(result: Result) -> Iterator[Row]:
    sides = result.get("sides", {})
    if "probe" in sides:
        claim = Text(
            "Fine-tuning on 244 photos (ants/bees), `--method probe`, the whole command with report and proof",
            "在 244 张照片（蚂蚁/蜜蜂）上微调，`--method probe`，含报告与证明的完整命令",
        )
        probe = sides["probe"]
        accuracy, seconds = _spread(probe["accuracy"], PERCENT), _spread(probe["process_seconds"], SECONDS)
        figure = Text(f"test accuracy {accuracy.en}; {seconds.en}", f"测试集准确率 {accuracy.zh}；{seconds.zh}")
        yield _row(result, claim, figure)
    if {"probe", "fastai"} <= sides.keys():
        claim = Text(
            "The same against fastai's `vision_learner`, head alone, 20 epochs, from data to fitted network",
            "同上，对比 fastai 的 `vision_learner`（只训练分类头，20 轮），从数据到训练好的网络",
        )
        times = sides["fastai"]["seconds"]["mean"] / sides["probe"]["seconds"]["mean"]
        accuracy = _spread(sides["fastai"]["accuracy"], PERCENT)
        figure = Text(f"{times:.1f} times as fast; fastai {accuracy.en}", f"快 {times:.1f} 倍；fastai {accuracy.zh}")
        yield _row(result, claim, figure)


def finetune_auto_rows(result: Result) -> Iterator[Row]:
    auto = result.get("sides", {}).get("auto")
    if auto is None:
        return
    claim = Text(
        "Fine-tuning on 244 photos (ants/bees), `--budget 5m`: test accuracy",
        "在 244 张照片（蚂蚁/蜜蜂）上微调，`--budget 5m`：测试集准确率",
    )
    yield _row(result, claim, _spread(auto["accuracy"], PERCENT, count_runs=True))


def finetune_epochs_rows(result: Result) -> Iterator[Row]:
    sides = result.get("sides", {})
    for part in ("full", "last"):
        if not {part, f"plain {part}"} <= sides.keys():
            continue
        claim = Text(
            f"An epoch of `--method {part}`, MobileNetV2 at 224 pixels, against the plain PyTorch loop",
            f"`--method {part}` 的一轮训练，224 像素的 MobileNetV2，对比普通 PyTorch 循环",
        )
        times = sides[f"plain {part}"]["image_seconds"]["mean"] / sides[part]["image_seconds"]["mean"]
        yield _row(result, claim, Text(f"{times:.2f} times as fast", f"快 {times:.2f} 倍"))


TRANSFERS = {
    "cifar10": Text(
        "CIFAR-10 (JPEG files), 50 labels per class, ResNet-56", "CIFAR-10（JPEG 文件），每类 50 个标签，ResNet-56"
    ),
    "digits": Text("MNIST to `digits`, 50 labels per class", "MNIST 到 `digits`，每类 50 个标签"),
}


def transfer_rows(result: Result) -> Iterator[Row]:
    for name, words in TRANSFERS.items():
        found = result.get("test_accuracy", {}).get(name, {})
        if not {"probe", "full", "auto"} <= found.keys():
            continue
        shown = {method: _spread(found[method], PERCENT) for method in ("auto", "probe", "full")}
        claim = Text(f"{words.en}: `auto` beside probe and full", f"{words.zh}：`auto` 与 probe、full 对比")
        figure = Text(
            ", ".join(f"{method} {text.en}" for method, text in shown.items()),
            "，".join(f"{method} {text.zh}" for method, text in shown.items()),
        )
        yield _row(result, claim, figure)


def few_labels_rows(result: Result) -> Iterator[Row]:
    if "test_accuracy" not in result:
        return
    accuracy = result["test_accuracy"]
    ours, other = (_spread(accuracy[name], PERCENT) for name in ("fine-tuned", result["best_other"]))
    claim = Text(
        "10 labels per digit: the shipped MNIST network, fine-tuned", "每个数字 10 个标签：微调自带的 MNIST 网络"
    )
    share = f"{100 * result['fewer_errors']:.0f} %"
    figure = Text(
        f"{ours.en}; from nothing {other.en}; {share} fewer errors", f"{ours.zh}；从零训练 {other.zh}；错误减少 {share}"
    )
    yield _row(result, claim, figure)


def doctor_rows(result: Result) -> Iterator[Row]:
    if "near_copies" not in result:
        return
    names = {"hymenoptera": "ants/bees", "cifar10": "CIFAR-10"}
    least = {shown: min(result["near_copies"][name]["recall"].values()) for name, shown in names.items()}
    found = ", ".join(f"{name} {100 * share:.1f} %" for name, share in least.items())
    yield _row(
        result,
        Text(
            "`doctor`: near copies found, of the hardest kind (cut)", "`doctor`：找到的近似重复图像（最难的一类：裁剪）"
        ),
        Text(found, found.replace(", ", "，")),
    )
    precision = result["wrong_labels"]["test_images_not_seen_by_the_weights"]["average_precision"]
    yield _row(
        result,
        Text(
            "`doctor --full`: 5 % wrong labels among 10,000 CIFAR-10 images, average precision",
            "`doctor --full`：10,000 张 CIFAR-10 图像中 5 % 的错误标签，平均精度",
        ),
        _spread(precision, Unit(1, 2, Text("", ""))),
    )


def pretrain_rows(result: Result) -> Iterator[Row]:
    for name, figures in result.get("networks", {}).items():
        claim = Text(
            f"`{name}`, which comes with convcraft: MNIST test accuracy", f"自带的 `{name}`：MNIST 测试集准确率"
        )
        yield _row(result, claim, _spread(figures["test_accuracy"], PERCENT))


def scratch_parity_rows(result: Result) -> Iterator[Row]:
    if "networks" not in result:
        return
    claim = Text(
        f"`convcraft.scratch` (NumPy) against torch in float64: {len(result['layers'])} layers, "
        f"{len(result['networks'])} networks (some at several image sizes), largest difference",
        f"`convcraft.scratch`（NumPy）与 torch 对比，float64：{len(result['layers'])} 种层、"
        f"{len(result['networks'])} 个网络（部分含多种图像尺寸），最大差异",
    )
    worst = {kind: max(each["gradient"] for each in result[kind].values()) for kind in ("layers", "networks")} | {
        "logits": max(each["logits"] for each in result["networks"].values())
    }
    figure = Text(
        f"gradients of layers {worst['layers']:.1e}; of networks {worst['networks']:.1e}, logits {worst['logits']:.1e}",
        f"层的梯度 {worst['layers']:.1e}；网络的梯度 {worst['networks']:.1e}，logits {worst['logits']:.1e}",
    )
    yield _row(result, claim, figure)
    images = result["resnet20_float32"]
    claim = Text(
        f"The published ResNet-20 in NumPy, float32, {images['images']:,} CIFAR-10 test images (JPEG files)",
        f"NumPy 运行已发布的 ResNet-20，float32，{images['images']:,} 张 CIFAR-10 测试图像（JPEG 文件）",
    )
    same, accuracy = f"{images['same_answer']:,}", f"{100 * images['accuracy']:.2f} %"
    figure = Text(
        f"torch's answer on {same}, logits differ by up to {images['largest_difference']:.1e}; accuracy {accuracy}",
        f"{same} 张与 torch 答案相同，logits 最大相差 {images['largest_difference']:.1e}；准确率 {accuracy}",
    )
    yield _row(result, claim, figure)


def scratch_resnet20_rows(result: Result) -> Iterator[Row]:
    compared = result.get("rates", {}).get("0.01", {}).get("numpy")
    if compared is None:
        return
    claim = Text(
        f"ResNet-20 trained in NumPy and in torch, float64, rate 0.01, {result['steps']} steps: losses differ by",
        f"用 NumPy 与 torch 训练 ResNet-20，float64，学习率 0.01，{result['steps']} 步：损失最大相差",
    )
    figure = f"{compared['largest_loss_difference']:.1e}"
    large = result["rates"].get("0.1", {}).get("numpy")
    if large is None:
        yield _row(result, claim, Text(figure, figure))
        return
    apart = f"{large['largest_loss_difference']:.1e}"
    yield _row(
        result,
        claim,
        Text(
            f"{figure} (at 0.1, where two torch runs part, too: {apart})",
            f"{figure}（学习率 0.1 时两次 torch 运行也会分开：{apart}）",
        ),
    )


def scratch_mnist_rows(result: Result) -> Iterator[Row]:
    figures = result.get("engines", {}).get("numpy")
    if figures is None:
        return
    claim = Text(
        f"LeNet-5 trained in NumPy alone on MNIST, {result['epochs']} epochs: test accuracy",
        f"只用 NumPy 在 MNIST 上训练 LeNet-5，{result['epochs']} 轮：测试集准确率",
    )
    yield _row(result, claim, _accuracy_and_time(figures))


def scratch_convolution_rows(result: Result) -> Iterator[Row]:
    if "bar" not in result:
        return
    claim = Text(
        f"3x3 convolution in NumPy (56x56, 64 to 64), forward and backward, against torch, {result['threads']} thread",
        f"NumPy 的 3x3 卷积（56x56，64 到 64 个特征图），前向加反向，对比 torch，{result['threads']} 线程",
    )
    ratio = f"{result['bar']['found']:.2f}"
    yield _row(result, claim, Text(f"{ratio} times as fast", f"{ratio} 倍速度"))


def scratch_train_speed_rows(result: Result) -> Iterator[Row]:
    networks = result.get("networks", {})
    if not networks:
        return
    threads = result["threads"]
    claim = Text(
        f"Training in NumPy against eager torch (float32, NCHW, Adam, batch 64), {threads} threads: speed",
        f"NumPy 训练对比 torch eager（float32、NCHW、Adam、批大小 64），{threads} 线程：速度",
    )
    found = {name: figures["ratio"] for name, figures in networks.items()}
    ratios = {name: f"{r['median']:.2f} ({r['min']:.2f}-{r['max']:.2f})" for name, r in found.items()}
    yield _row(
        result,
        claim,
        Text(
            ", ".join(f"{name} {ratio} times" for name, ratio in ratios.items()),
            "，".join(f"{name} {ratio} 倍" for name, ratio in ratios.items()),
        ),
    )


def trust_rows(result: Result) -> Iterator[Row]:
    """Of the recipe's own run, or of a published network."""
    if "calibration" not in result:
        return
    before, after = (
        _spread(result["calibration"][when]["expected_calibration_error"], PERCENT) for when in ("before", "after")
    )
    lac, chosen = result["conformal"]["lac"], result["unknown"]["chosen_score"]
    lowest = min(entry["auroc"] for entry in result["unknown"]["auroc"][chosen].values())
    weights = result.get("network", {}).get("weights")
    of = Text(f"`{weights}`", f"`{weights}`") if weights else Text("recipe `cifar10-cpu`", "配方 `cifar10-cpu`")
    claim = Text(
        f"CIFAR-10 (JPEG files), {of.en}: calibration error; sets at 90 %; MNIST and noise as unknown images",
        f"CIFAR-10（JPEG 文件），{of.zh}：校准误差；90 % 预测集；以 MNIST 与噪声为未知图像",
    )
    figure = Text(
        f"ECE {before.en}, then {after.en}; coverage {100 * lac['coverage']:.1f} % with {lac['mean_size']:.2f} classes "
        f"on average; AUROC at least {lowest:.3f}",
        f"ECE 从 {before.zh} 降到 {after.zh}；覆盖率 {100 * lac['coverage']:.1f} %，平均 {lac['mean_size']:.2f} 类；"
        f"AUROC 至少 {lowest:.3f}",
    )
    yield _row({**result, "met": all(result["met"].values())}, claim, figure)


def verify_rows(result: Result) -> Iterator[Row]:
    if "num_changes" not in result:
        return
    share = result["bars"]["changes found and named, of all"]["found"]
    found = round(share * result["num_changes"])
    claim = Text(
        "`verify`: changes to an evaluated run, forgeries sealed anew among them, found and the file named",
        "`verify`：对已评估运行的改动（包括重新封印的伪造）被发现并指出文件",
    )
    yield _row(result, claim, Text(f"{found} of {result['num_changes']}", f"{result['num_changes']} 处中 {found} 处"))


def metrics_rows(result: Result) -> Iterator[Row]:
    differences = result.get("differences", {}).get("scikit-learn")
    if differences is None:
        return
    largest = max(differences.values())
    claim = Text(
        "Figures of an evaluation against scikit-learn, degenerate inputs included: largest difference",
        "评估指标与 scikit-learn 相比（含退化输入）：最大差异",
    )
    yield _row(result, claim, Text(f"{largest:.1e}", f"{largest:.1e}"))


def explain_rows(result: Result) -> Iterator[Row]:
    if "largest_difference" not in result:
        return
    networks, figure = len(result["networks"]), f"{result['largest_difference']:.1e}"
    claim = Text(
        f"Heat maps against captum and pytorch-grad-cam, {networks} networks: largest difference of maps in 0..1",
        f"热力图与 captum 和 pytorch-grad-cam 相比，{networks} 个网络：0..1 的图的最大差异",
    )
    yield _row(result, claim, Text(figure, figure))


def report_size_rows(result: Result) -> Iterator[Row]:
    page = result.get("pages", {}).get("1,000 classes")
    if page is None:
        return
    size, seconds = f"{page['megabytes']:.1f} MB", page["load_seconds"]["mean"]
    claim = Text(
        "Report of 1,000 classes with 10 images each, in Chromium", "1,000 类、每类 10 张图像的报告，在 Chromium 中"
    )
    yield _row(result, claim, Text(f"{size}, open in {seconds:.1f} s", f"{size}，{seconds:.1f} 秒打开"))


def deletion_rows(result: Result) -> Iterator[Row]:
    if "best" not in result:
        return
    method, share = result["best"]["method"], result["best"]["share"]
    low, high = result["methods"][method]["blur"]["interval"]
    claim = Text(
        "Heat maps of ants/bees: photos on which the best method beats a centre blob in the deletion test",
        "蚂蚁/蜜蜂热力图：删除测试中最佳方法优于中心光斑的照片",
    )
    figure = Text(
        f"{method}: {100 * share:.1f} % (95 %: {100 * low:.0f} to {100 * high:.0f})",
        f"{method}：{100 * share:.1f} %（95 %：{100 * low:.0f} 至 {100 * high:.0f}）",
    )
    yield _row({**result, "met": result["best"]["met"]}, claim, figure)


def mutants_rows(result: Result) -> Iterator[Row]:
    mutants, clean = result.get("mutants"), result.get("clean")
    if not mutants or not clean:
        return
    refused, made, accepted = mutants["refused"], mutants["made"], clean["accepted"]
    claim = Text(
        "Bundles that would answer otherwise (BGR, another resize, classes in another order ...) refused; sound ones",
        "回答会改变的模型包（BGR、缩放方式不同、类别顺序不同……）被拒绝；完好的模型包",
    )
    figure = Text(
        f"{refused} of {made} refused; {accepted} of {clean['made']} accepted",
        f"拒绝 {made} 个中的 {refused} 个；接受 {clean['made']} 个中的 {accepted} 个",
    )
    yield _row(result, claim, figure)


def base_install_rows(result: Result) -> Iterator[Row]:
    if "megabytes" not in result:
        return
    later = result["later_start_seconds"]["mean"]
    claim = Text(
        "Predicting with a MobileNetV2 bundle without torch: size of the install, one photo from a cold start",
        "不用 torch、用 MobileNetV2 模型包预测：安装体积，冷启动预测一张照片的用时",
    )
    size, first, apart = result["megabytes"], result["first_start_seconds"], result["largest_difference"]
    figure = Text(
        f"{size:.0f} MB; {later:.2f} s, the first time {first:.2f} s; probabilities within {apart:.1e} of the run's",
        f"{size:.0f} MB；{later:.2f} 秒，首次 {first:.2f} 秒；概率与训练环境相差不超过 {apart:.1e}",
    )
    yield _row({**result, "met": all(result["met"].values())}, claim, figure)


def runtime_speed_rows(result: Result) -> Iterator[Row]:
    exact, int8 = result.get("fastest_without_loss"), result.get("fastest_int8")
    if not exact or not int8 or int8["times_torch"] is None:
        return
    claim = Text(
        "ResNet-18, 224 pixels, one image, against eager torch: in bfloat16 and in int8 (OpenVINO)",
        "ResNet-18、224 像素、单张图像，与 torch eager 相比：bfloat16 与 int8（OpenVINO）",
    )
    half = result["speed"]["openvino bfloat16"]["1"]["times_torch"]
    agree = result["cost_on_ants_bees"][int8["variant"]]["agreement"]
    figure = Text(
        f"{half:.2f} and {int8['times_torch']:.2f} times as fast; on 153 test photos {100 * agree:.1f} % equal answers",
        f"{half:.2f} 倍与 {int8['times_torch']:.2f} 倍；153 张测试照片上 {100 * agree:.1f} % 的回答相同",
    )
    yield _row({**result, "met": all(result["met"].values())}, claim, figure)


def export_parity_rows(result: Result) -> Iterator[Row]:
    if "largest_difference" not in result:
        return
    networks, figure = len(result["networks"]), f"{result['largest_difference']:.1e}"
    claim = Text(
        f"Exports in float32 ({networks} networks, 500 real images each): difference of logits, of their range",
        f"float32 导出（{networks} 个网络，各 500 张真实图像）：logit 的最大差异（占其范围之比）",
    )
    yield _row(result, claim, Text(figure, figure))


def prune_rows(result: Result) -> Iterator[Row]:
    bars, test = result.get("bars"), result.get("test")
    if not bars or not test:
        return
    claim = Text(
        "Half of the multiply-adds of ResNet-56 pruned (CIFAR-10 JPEG files): test accuracy, speed, file",
        "ResNet-56 剪去一半乘加（CIFAR-10，JPEG 文件）：测试准确率、速度、文件大小",
    )
    before = max(test["before"]["accuracy"], test["longer"]["accuracy"])
    after, speed, size = test["pruned"]["accuracy"], bars["speed"], bars["file_bytes_left"]
    figure = Text(
        f"{100 * after:.2f} % for {100 * before:.2f} %; {speed:.2f} times the speed; {100 * size:.0f} % of its bytes",
        f"{100 * after:.2f} %（剪枝前 {100 * before:.2f} %）；{speed:.2f} 倍速度；文件为原来的 {100 * size:.0f} %",
    )
    yield _row({**result, "met": all(result["met"].values())}, claim, figure)


def int8_training_rows(result: Result) -> Iterator[Row]:
    test = result.get("test")
    if not test:
        return
    claim = Text(
        "ResNet-20 that int8 harms (CIFAR-10 JPEGs): int8 accuracy after `compress --int8`, after as many plain epochs",
        "int8 有损的 ResNet-20（CIFAR-10，JPEG）：`compress --int8` 后、同样多轮普通训练后的 int8 准确率",
    )
    whole, before = test["before"]["float32"]["accuracy"], test["before"]["openvino int8"]["accuracy"]
    after, plain = test["int8"]["openvino int8"]["accuracy"], test["longer"]["openvino int8"]["accuracy"]
    figure = Text(
        f"{100 * after:.2f} %, {100 * plain:.2f} %; before {100 * before:.2f} % (float32 {100 * whole:.2f} %)",
        f"{100 * after:.2f} %，{100 * plain:.2f} %；之前 {100 * before:.2f} %（float32 {100 * whole:.2f} %）",
    )
    yield _row({**result, "met": all(result["met"].values())}, claim, figure)


MAKERS: dict[str, Callable[[Result], Iterator[Row]]] = {
    "mnist": mnist_rows,
    "digits": digits_rows,
    "cifar10_cpu": cifar10_rows,
    "seeds": seed_rows,
    "train_speed": train_speed_rows,
    "decode": decode_rows,
    "large_folder": large_folder_rows,
    "residual": residual_rows,
    "finetune": finetune_rows,
    "finetune_auto": finetune_auto_rows,
    "finetune_epochs": finetune_epochs_rows,
    "transfer": transfer_rows,
    "few_labels": few_labels_rows,
    "pretrain": pretrain_rows,
    "doctor": doctor_rows,
    "metrics_parity": metrics_rows,
    "trust": trust_rows,
    "trust_weights": trust_rows,
    "verify_tamper": verify_rows,
    "report_size": report_size_rows,
    "bundle_mutants": mutants_rows,
    "base_install": base_install_rows,
    "export_parity": export_parity_rows,
    "runtime_speed": runtime_speed_rows,
    "prune_resnet56": prune_rows,
    "int8_training": int8_training_rows,
    "explain_parity": explain_rows,
    "explain_deletion": deletion_rows,
    "kill_resume": kill_rows,
    "bad_images": bad_image_rows,
    "near_copies": near_copy_rows,
    "scratch_parity": scratch_parity_rows,
    "scratch_resnet20": scratch_resnet20_rows,
    "scratch_mnist": scratch_mnist_rows,
    "scratch_train_speed": scratch_train_speed_rows,
    "scratch_convolutions_1_thread": scratch_convolution_rows,
}


def _row(result: Result, claim: Text, figure: Text) -> Row:
    if result.get("met") is False:
        figure = Text(f"{figure.en} (bar missed)", f"{figure.zh}（未达标）")
    return Row(claim, figure, _hardware(result.get("hardware")), str(result.get("command", "")))


# Figures ----------------------------------------------------------------------------------------------------------


class Unit(NamedTuple):
    """How a number is shown: multiplied by `factor`, with `decimals`, followed by `name`."""

    factor: float
    decimals: int
    name: Text


PERCENT = Unit(100, 2, Text(" %", " %"))
SECONDS = Unit(1, 0, Text(" s", " 秒"))
TIMES = Unit(1, 2, Text(" times", " 倍"))


def _accuracy_and_time(figures: Result) -> Text:
    """ "99.61 % (99.58 to 99.64, 3 runs); trained in 110 s (104 to 117)", as far as the figures are there."""
    parts: list[Text] = []
    if "test_accuracy" in figures:
        parts.append(_spread(figures["test_accuracy"], PERCENT, count_runs=True))
    if "train_seconds" in figures:
        seconds = _spread(figures["train_seconds"], SECONDS)
        parts.append(Text(f"trained in {seconds.en}", f"训练用时 {seconds.zh}"))
    if "ratio_to_textbook" in figures:
        ratio = _spread(figures["ratio_to_textbook"], TIMES)
        parts.append(Text(f"{ratio.en} the speed of a textbook loop", f"速度为教科书式训练循环的 {ratio.zh}"))
    return Text("; ".join(part.en for part in parts), "；".join(part.zh for part in parts))


def _spread(value: Any, unit: Unit, *, count_runs: bool = False) -> Text:
    """A number, or {mean, min, max, values} with its range."""
    if not isinstance(value, Mapping):
        shown = f"{value * unit.factor:.{unit.decimals}f}"
        return Text(shown + unit.name.en, shown + unit.name.zh)
    mean, low, high = (f"{value[key] * unit.factor:.{unit.decimals}f}" for key in ("mean", "min", "max"))
    runs = len(value.get("values", ()))
    more = Text(f", {runs} runs", f"，{runs} 次运行") if count_runs and runs else Text("", "")
    return Text(f"{mean}{unit.name.en} ({low} to {high}{more.en})", f"{mean}{unit.name.zh}（{low} 至 {high}{more.zh}）")


def _count(value: Any) -> int:
    """A count, also where the file lists what was counted."""
    return int(value) if isinstance(value, (int, float)) else len(value)


def _hardware(facts: Any) -> Text:
    if not isinstance(facts, Mapping):
        return Text(str(facts or ""), str(facts or ""))
    names = [str(facts[key]) for key in ("gpu", "cpu", "device") if facts.get(key)][:1]
    cores = facts.get("cores", facts.get("cpu_cores"))
    count = [] if cores is None else [Text(f"{cores} cores", f"{cores} 核")]
    features = ["bf16"] if facts.get("avx512_bf16") or facts.get("bf16") else []
    return Text(
        ", ".join([*names, *(text.en for text in count), *features]),
        "，".join([*names, *(text.zh for text in count), *features]),
    )


# Files ------------------------------------------------------------------------------------------------------------


def _read(path: Path) -> Result:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the table of measured results into the READMEs.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 where a table is out of date")
    check = parser.parse_args().check
    stale = False
    for name, language in READMES.items():
        path = ROOT / name
        old = path.read_text(encoding="utf-8")
        new = with_table(old, table(language))
        if new == old:
            continue
        stale = True
        if check:
            print(f"{name}: the table of results is out of date; run python benchmarks/readme_table.py")
        else:
            path.write_text(new, encoding="utf-8")
            print(f"{name}: table written")
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main())
