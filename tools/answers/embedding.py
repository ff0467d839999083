"""What a learned prompt vector is: held against the words of the vocabulary, from each start and with an encoder."""

from statistics import fmean

import pandas as pd

from bench.report import format as fmt
from bench.report.sections import overview as facts
from bench.verdicts.claims import JudgedResults
from tools.answers.words import Answer, Say, claims, figure, published, scores_tag, span, table

NAME = "embedding"
RANDOM, SAMPLED, NAMES = (f"prompt_tuning(length=10, init='{init}')" for init in ("uniform", "vocabulary", "labels"))
STARTS = (RANDOM, SAMPLED, NAMES)
ENCODED, MLP, PLAIN = "p_tuning(length=10)", "p_tuning(length=10, encoder='mlp')", "p_tuning(length=10, encoder='none')"


def answer(say: Say) -> Answer:
    """The page; its figures are those of the published run."""
    run = published(NAME)
    results = JudgedResults(run)
    held = results.vector_table
    return Answer(
        question=say("What is a learned prompt vector?", "学到的 prompt 向量是什么？"),
        sentence=_vector(say, held) + say(" ", "") + _scores(say, results),
        tag=say("one backbone, one task; ", "一个主干、一个任务；") + scores_tag(say, run),
        run=NAME,
        command=f"python -m bench run --suite {NAME}",
        parts=(
            (say("What an embedding is, in five sentences", "五句话说清什么是 embedding"), _five(say, results)),
            (
                say("Measured", "测量"),
                _measured(say, results) + "\n\n" + _yardsticks(say, held) + f"\n\n{fmt.plain(facts.data(results))}",
            ),
            (say("Nearest words", "最近的词"), _words(say, held)),
            (say("What the encoder changes", "编码器改变了什么"), _encoder(say, results)),
            (say("Verdicts", "各项结论"), claims(say, run)),
            (
                say("Vector by vector", "逐个向量"),
                figure(NAME, "nearest-words", say("Norms and cosines to the nearest word", "范数，以及与最近词的余弦")),
            ),
        ),
        not_concluded=_doubts(say),
    )


def _mean(held: pd.DataFrame, label: str, column: str) -> float:
    return float(held.loc[held["method"] == label, column].mean())


def _score(results: JudgedResults, label: str) -> str:
    return fmt.points(results.score_table.loc[label, "mean"])


def _difference(results: JudgedResults, claim: str) -> str:
    """What a claim compares, in points with its interval."""
    row = results.claims.set_index("claim").loc[claim]
    return fmt.difference(row["value"], row["low"], row["high"])


def _decided(say: Say, results: JudgedResults, claim: str) -> str:
    verdict = str(results.claims.set_index("claim").loc[claim, "verdict"])
    told = {
        "pass": say("decided: it does", "已定：成立"), "fail": say("decided: it does not", "已定：不成立"),
        "inconclusive": say("not decided", "未定"), "invalid": say("not decided", "未定"),
    }  # fmt: skip
    return told[verdict]


def _vector(say: Say, held: pd.DataFrame) -> str:
    """Whether trained vectors lie as near to a word as words do, with the figures that say so."""
    same, nearest = held.iloc[0], [_mean(held, label, "nearest") for label in STARTS]
    words = held[held["method"].isin((SAMPLED, NAMES))]
    strange = max(nearest) < same["word_nearest"]
    norms = span((_mean(held, label, "norm") for label in STARTS), 1)
    band = f"{same['word_low']:.2f} - {same['word_high']:.2f}"
    cosines, word, chance = span(nearest), f"{same['word_nearest']:.2f}", f"{same['random_nearest']:.2f}"
    kept, of = int(words["kept"].sum()), len(words)
    verdict = (
        say(
            "no word: it lies farther from every word than words lie from each other",
            "不是词：它离每个词都比词与词之间更远",
        )
        if strange
        else say("as near to some word as words are to each other", "离某个词的距离与词和词之间相当")
    )
    return say(
        f"An input vector like a word's, and {verdict}. Trained from three starts its norm is {norms}, where nine in ten "
        f"words have {band}; its cosine to the nearest word is {cosines}, where a word has {word} to another word and a "
        f"random direction {chance}. Of {of} vectors that started as words, {kept} keep that word as their nearest.",
        f"它像词向量一样作为输入，但{verdict}。从三种初始化训练后，范数为 {norms}，而九成的词在 {band}；与最近词的余弦为 "
        f"{cosines}，词与另一个词为 {word}，随机方向为 {chance}。{of} 个从词出发的向量中，{kept} 个最近的词仍是原来的词。",
    )


def _scores(say: Say, results: JudgedResults) -> str:
    random, sampled, names, alone = (_score(results, label) for label in (*STARTS, "head"))
    words, classes, encoder = (
        f"{_difference(results, claim)}, {_decided(say, results, claim)}"
        for claim in ("words-beat-random", "class-names-beat-words", "the-encoder-helps")
    )
    return say(
        f"The start: {random} points from random vectors, {sampled} from sampled words ({words}), {names} from the names "
        f"of the classes ({classes}); the head alone {alone}. P-Tuning's encoder against its vectors alone, from the same "
        f"start: {encoder}.",
        f"初始化：随机向量得 {random} 分，抽样的词 {sampled} 分（{words}），类别名 {names} 分（{classes}）；只训练头 {alone} 分。"
        f"P-Tuning 的编码器与只训练向量相比（同一起点）：{encoder}。",
    )


def _five(say: Say, results: JudgedResults) -> str:
    words = int(results.vector_table.iloc[0]["of_words"])
    record = next(r for r in results.score_records if r.method.label == SAMPLED and r.trainable_parameters)
    assert record.trainable_parameters is not None
    width = record.trainable_parameters.method // int(record.method.config["length"])
    return say(
        f"1. A tokenizer cuts a text into tokens and gives each a whole number: its place in a vocabulary, here of "
        f"{words:,}.\n"
        f"2. The embedding of a token is the row of {width} numbers that a table holds at that place; the model reads "
        "this vector, and neither the number nor the letters.\n"
        "3. The table is learned with the rest of the model, so that tokens used alike get vectors that point alike; the "
        "cosine of the angle between two measures it.\n"
        "4. A prompt method puts vectors of its own in front of those of the sentence and trains these alone: gradients "
        "carry them anywhere in the space, and nothing draws them back to a row of the table.\n"
        "5. So a learned prompt enters like a word and has no spelling; its nearest word is the row whose direction comes "
        "closest, however far that is.",
        f"1. 分词器把文本切成 token，每个 token 对应一个整数：它在词表中的位置，这里的词表有 {words:,} 个位置。\n"
        f"2. token 的 embedding 就是表中该位置的一行 {width} 个数；模型读的是这个向量，而不是那个整数或字母。\n"
        "3. 这张表与模型的其余部分一起学习，用法相似的 token 得到方向相似的向量；两者夹角的余弦就是这种相似的度量。\n"
        "4. prompt 方法在句子的向量前面放上自己的向量，并且只训练它们：梯度可以把它们带到空间的任何地方，没有什么把它们拉回表中的某一行。\n"
        "5. 所以学到的 prompt 像词一样进入模型，却没有拼写；它“最近的词”只是方向最接近的那一行，不论有多远。",
    )


def _measured(say: Say, results: JudgedResults) -> str:
    held = results.vector_table
    head = [
        say("what trains", "训练什么"), say("norm at the start", "初始范数"), say("norm", "范数"), say("moved", "移动"),
        say("cosine at the start", "初始余弦"), say("cosine to the nearest word", "与最近词的余弦"),
        say("same nearest word", "最近词不变"), say("first loss", "首步损失"), say("score", "得分"),
        say(f"- {results.baseline}, 95 %", f"- {results.baseline}，95 %"),
    ]  # fmt: skip
    rows = []
    for label, scored in results.score_table.iterrows():
        mine = held[held["method"] == label]
        losses = [r.losses[0] for r in results.score_records if r.method.label == label and r.losses]
        norms = [f"{mine[column].mean():.2f}" for column in ("start_norm", "norm", "moved", "start_nearest", "nearest")]
        told = [*norms, f"{int(mine['kept'].sum())} / {len(mine)}"] if len(mine) else [fmt.MISSING] * 6
        whole = fmt.difference(scored["difference"], scored["low"], scored["high"])
        rows.append([f"`{label}`", *told, f"{fmean(losses):.3f}", fmt.points(scored["mean"]), whole])
    return table(head, rows)


def _yardsticks(say: Say, held: pd.DataFrame) -> str:
    same = held.iloc[0]
    apart, norm = f"{same['word_distance']:.2f}", f"{same['word_norm']:.2f}"
    return say(
        f"Means over vectors and seeds. Two words lie {apart} apart on average, and the median norm of a word is {norm}. "
        "A cosine of 1 at the start is a word itself.",
        f"均为各向量、各种子的均值。两个词平均相距 {apart}，词的范数中位数为 {norm}。初始余弦为 1 表示起点就是一个词。",
    )


def _words(say: Say, held: pd.DataFrame) -> str:
    """The nearest word of each vector of one seed, and how often any seed has the name of a class near."""
    seed = int(held["seed"].min())
    classes = set(held.loc[held["method"] == NAMES, "start_word"])
    head = [
        say("what trains", "训练什么"), say(f"nearest word of each vector, seed {seed}", f"每个向量最近的词，种子 {seed}"),
        say("different words, all seeds", "不同的词，全部种子"),
        say("a class name among the nearest three", "最近三个词中有类别名"),
    ]  # fmt: skip
    rows = []
    for label, mine in held.groupby("method", sort=False):
        first = mine[mine["seed"] == seed].sort_values("place")["word"]
        near = sum(bool(classes & set(words)) for words in mine["words"])
        rows.append([
            f"`{label}`", fmt.markdown(" · ".join(first)), f"{mine['word'].nunique()} / {len(mine)}",
            f"{near} / {len(mine)}",
        ])  # fmt: skip
    return table(head, rows, 2)


def _encoder(say: Say, results: JudgedResults) -> str:
    held = results.vector_table
    start = f"{_mean(held, ENCODED, 'start_norm'):.2f}"
    norms = [f"{_mean(held, label, 'norm'):.2f}" for label in (ENCODED, MLP, PLAIN)]
    scores = [_score(results, label) for label in (ENCODED, MLP, PLAIN)]
    return say(
        "`P = W_2 relu(W_1 BiLSTM(E) + b_1) + b_2`: the vectors are outputs of one network, so that a gradient that reaches "
        "one of them moves all, and a step of the network's weights is a step of `P` of another size and direction than a "
        "step of `P` itself. It reads no input: after training `P` is computed once, the encoder is dropped, and what is "
        f"stored and what inference takes are the same. Both begin at the same `P`, of norm {start}; trained, it has norm "
        f"{norms[0]} and scores {scores[0]} behind the BiLSTM, and norm {norms[2]} and {scores[2]} where the vectors train "
        f"themselves. The MLP alone, from a start of its own, comes to {norms[1]} and {scores[1]}.",
        "`P = W_2 relu(W_1 BiLSTM(E) + b_1) + b_2`：各向量是同一个网络的输出，到达其中一个的梯度会移动全部；网络权重走一步，"
        "`P` 走的大小和方向与直接更新 `P` 不同。编码器不读输入：训练后只算一次 `P`，丢掉编码器，存储与推理完全一样。"
        f"两者从同一个 `P` 出发，范数 {start}；训练后，经过 BiLSTM 的范数为 {norms[0]}、得分 {scores[0]}，直接训练向量的为 "
        f"{norms[2]}、{scores[2]}。只用 MLP（起点不同）为 {norms[1]}、{scores[1]}。",
    )


def _doubts(say: Say) -> tuple[str, ...]:
    return (
        say(
            "A nearest word is no reading of a prompt. Some word is always the nearest, and the table above shows how near "
            "words and random directions are.",
            "最近的词不是对 prompt 的解读：总有某个词最近；上表给出词与词、随机方向有多近。",
        ),
        say(
            "How far vectors move grows with rate and steps. Rates are those of the search of `movie-reviews`, found for "
            "sampled words and for the BiLSTM; the other arms take the rate of the one of their kind, and may want another.",
            "向量移动多远取决于学习率和步数。学习率来自 `movie-reviews` 的搜索，是为抽样的词和 BiLSTM 找的；其余各组沿用同类的学习率，"
            "也许需要别的。",
        ),
        say(
            "With the encoder and without differ in their rate too: each has that of its kind, so that the difference is of "
            "the two as they are used, not of the encoder at one rate.",
            "有无编码器的两组学习率也不同：各用同类的学习率，所以差别是两种用法之间的，不是同一学习率下编码器本身的。",
        ),
        say(
            "Vectors are compared where they enter. Positions are added there and a layer norm follows, so that a norm "
            "many times a word's reaches the first layer smaller than the table shows, and its position fainter.",
            "向量是在进入模型处比较的。此后还要加上位置并经过层归一化，所以范数再大，到第一层时差别也比表中小，而位置信息变弱。",
        ),
        say(
            "One small encoder, one task of two classes, ten vectors, 160 steps, a head that trains beside them.",
            "只是一个小编码器、一个二分类任务、十个向量、160 步，而且头同时在训练。",
        ),
    )
