//! The model that is part of the program.

use super::*;

#[test]
fn the_built_in_model_writes_words() {
    let model = Model::built_in().unwrap();
    assert_eq!(model.name(), "tiny");
    let drawn = Request { temperature: 0.6, ..request("She was very happy to see her sister, and", 60) };
    let generated = generated(&model, &drawn);
    let words: Vec<&str> = generated.text.split_whitespace().collect();
    let known = [
        "the", "and", "of", "to", "a", "her", "was", "in", "it", "that", "she", "had", "not", "be", "he", "you", "I", "his", "with", "for",
    ];
    let usual = words.iter().filter(|word| known.contains(word)).count();
    assert!(usual * 5 > words.len() && words.len() > 15, "{:?}", generated.text);
}

#[tokio::test]
async fn simulated_gpus_of_a_process_share_it() {
    let one = Predict::built_in(&PredictSection::default()).await.unwrap();
    let engine = registry::engine(None).unwrap();
    let held = Arc::strong_count(&engine);
    let other = Predict::built_in(&PredictSection::default()).await.unwrap();
    assert_eq!(Arc::strong_count(&engine), held + 1);
    assert_eq!((one.models(), other.models()), (vec!["tiny".to_owned()], vec!["tiny".to_owned()]));
    assert_eq!(
        (one.together_max(), one.batching()),
        (Some(Predict::RUNS_AT_ONCE), None),
        "it is told, and each run stays a run of its own"
    );
    let answer = run_on(&other, &gpu(), json!({"text": "The family", "max_length": 4})).await.unwrap();
    assert_eq!(answer.to::<serde_json::Value>().unwrap()["model"], "tiny");
}
